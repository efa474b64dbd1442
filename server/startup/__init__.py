"""What is prepared before the server answers: seed adapters and the models' folders."""
