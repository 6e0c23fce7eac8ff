"""What is known of tables: columns, types, item fields, DDL, and the SQL that messages print."""
