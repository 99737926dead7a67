"""What every loss family is built on."""
