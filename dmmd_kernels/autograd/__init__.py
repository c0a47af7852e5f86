"""The torch operators dmmd::<name>: any backend, every transform, each derivative once."""
