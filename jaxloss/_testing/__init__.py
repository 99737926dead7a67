"""What `jaxloss.testing` is made of."""
