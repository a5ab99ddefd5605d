"""From a file to a document with positions, and from a bad document to every fault at its line and column."""
