"""One module per fault: `python -m loadtests.faults.killed_workers --jobs 2000`."""
