"""Products with packed weights in C++, built on the machine that runs them. See bindings.py."""
