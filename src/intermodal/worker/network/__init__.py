"""The containers' network: a bridge, address translation and names."""
