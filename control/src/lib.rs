//! The state machine that changes views, and the trait of the register.
