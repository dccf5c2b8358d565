"""One module a noun; a route parses, calls one verb of the store and returns what it gave."""
