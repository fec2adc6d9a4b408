"""HTTP from outside: parsed here, scheduled as inputs, answered by the containers' own connections."""
