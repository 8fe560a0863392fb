"""start_with_fds.py N,N,… COMMAND…: runs COMMAND with those descriptors as 3, 4, …, and no others."""

import os
import sys

numbers = [int(number) for number in sys.argv[1].split(",") if number]
high = [os.dup2(number, 500 + index) for index, number in enumerate(numbers)]
for index, number in enumerate(high):
    os.dup2(number, 3 + index)
    os.set_inheritable(3 + index, True)
os.closerange(3 + len(high), 1000)
os.execv(sys.argv[2], sys.argv[2:])
