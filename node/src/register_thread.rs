//! The thread that reads and writes the register: its flushes must not stop an executor.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use sealog_control::register::{Register, Swap};
use sealog_protocol::machine::Address;
use sealog_protocol::view::Chain;
use sealog_runtime::{ExecutorId, Poster};

use crate::host::Event;

/// What a machine wants of the register.
pub struct RegisterRequest {
    pub from: Address,
    pub wish: RegisterWish,
    pub poster: Poster<Event>,
}

pub enum RegisterWish {
    Read,
    Swap(Box<Chain>),
}

/// Serves requests until no executor is left to make one. What was installed, or turned out to be
/// held, is told to every executor.
pub fn serve(mut register: impl Register, requests: &Receiver<RegisterRequest>, executors: u8) {
    while let Ok(request) = requests.recv() {
        let RegisterRequest { from, wish, poster } = request;
        let (held, swapped) = match wish {
            RegisterWish::Read => (None, None),
            RegisterWish::Swap(next) => {
                let held = match register.compare_and_swap(&next) {
                    Ok(Swap::Installed) => {
                        tracing::info!(logspace = next.logspace.0, view = next.current().number.0, "view installed");
                        Some(*next)
                    }
                    Ok(Swap::Held(held)) => Some(*held),
                    Err(error) => {
                        tracing::error!(%error, "a compare-and-swap of the register has an unclear outcome");
                        None
                    }
                };
                (held, Some(from))
            }
        };
        let held = held.map(Some).map_or_else(|| register.read(from.logspace), Ok);
        let chain = match held {
            Ok(Some(chain)) => Arc::new(chain),
            Ok(None) => continue,
            Err(error) => {
                // The machine asks again when its own deadline passes.
                tracing::error!(%error, "the register can't be read");
                continue;
            }
        };
        for executor in 0..executors {
            poster.post(ExecutorId(executor), Event::Chain { chain: chain.clone(), swapped });
        }
    }
}
