"""The whole product on one machine, without containers: real Kafka, real PostgreSQL, a mail sink."""
