"""What runs inside a container: loads the user's code, runs inputs, sends outputs. Standard library only."""
