"""What stands around the services: a room for each purpose (docs/adr/0042-rooms-and-images.md)."""
