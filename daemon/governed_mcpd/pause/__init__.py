"""From a held system call to the side effects it would have. Reads the thread; decides nothing."""
