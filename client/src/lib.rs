//! The Sealog client: async on any executor, and blocking.
