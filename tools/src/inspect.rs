use crate::arguments::InspectArguments;
use crate::failure::Failure;
pub fn run(_a: &InspectArguments) -> Result<(), Failure> {
    Err(Failure::other("not in this build"))
}
