"""The Experts page in pieces: what is asked of a mixture, and the views of what its experts did."""
