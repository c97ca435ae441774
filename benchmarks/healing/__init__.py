"""What conversion costs, and what calibration and healing recover: one command, `make heal-report`."""
