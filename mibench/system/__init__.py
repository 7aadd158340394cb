"""What the suite needs from the machine and its files: devices, paths, text files, the state of the process."""
