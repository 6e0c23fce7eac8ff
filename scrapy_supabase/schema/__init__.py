"""Tables and their columns: types, item fields, DDL, and the SQL in messages."""
