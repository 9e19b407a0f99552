"""Writer schemas: schema files and a Schema Registry behind one lookup, `store.WriterSchemas`."""
