//! Changing views: the controller's state machine, and the register that it changes them in.
//!
//! [`controller`] seals, decides, repairs and installs; [`decide`] is the rule that says where a
//! view ends; [`register`] is the contract of the compare-and-swap store.

pub mod controller;
pub mod decide;
pub mod register;

pub use controller::{Controller, ControllerConfig};
pub use register::{MembersSwap, Register, RegisterError, Swap};
