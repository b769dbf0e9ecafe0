"""What the measuring programs share: command lines, worker processes and tables."""
