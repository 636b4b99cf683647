"""Which model versions a replica serves, how they come and go, and which of them a request reaches."""
