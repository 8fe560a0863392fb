"""The way of one side effect: pause, verdict, record, grant, reply. `decide` is its spine."""
