"""ARM template deployments and what-if."""
