"""Drive the robot in the world model from a browser."""
