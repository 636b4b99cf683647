"""Queues, batches and execution slots of the served models."""
