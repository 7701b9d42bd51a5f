"""The whole system on one machine: servers as child processes, and the demo."""
