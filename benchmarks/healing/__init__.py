"""What conversion costs, and what calibration and healing win back: one command, `make heal-report`."""
