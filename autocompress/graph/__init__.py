"""The one representation of a network, and how it is read, analysed and executed."""
