-- What made vectors and had no sound one for a memory or message: it is not asked again for the same text.
ALTER TABLE pending_vectors ADD COLUMN refused_by TEXT;
