"""Item → row → chunk: building, encoding, keys, stamps, files of rows."""
