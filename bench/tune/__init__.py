"""What the tuner finds, and after how many measurements, on models whose whole space was measured."""
