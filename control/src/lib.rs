//! Changing views: the controller's state machine, and the register that it changes them in.
//!
//! [`controller`] seals, decides, repairs and installs; [`decide`] is the rule that says where a
//! view ends; [`plan`] says who is in the next one, [`suspicion`] who is lost; [`register`] is the
//! contract of the compare-and-swap store.

pub mod controller;
pub mod decide;
pub mod operator;
pub mod plan;
pub mod register;
pub mod suspicion;

pub use controller::{Controller, ControllerConfig, ControllerStatus};
pub use register::{MembersSwap, Register, RegisterError, Swap};
