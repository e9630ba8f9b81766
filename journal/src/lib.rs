//! The disk format of Sealog: segments, blocks, footers, recovery. Pure.
