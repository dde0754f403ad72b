"""The inference engines and the protocol that they implement."""
