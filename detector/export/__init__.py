"""Models as graphs of one file each, for runtimes that know nothing of cutswap."""
