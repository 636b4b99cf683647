"""What a replica tells about itself: statistics, metrics, stages of requests."""
