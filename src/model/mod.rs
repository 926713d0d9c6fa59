//! What is stored: users, cars, and what a caller hands in to make them. No I/O.

mod car;
mod id;
mod input;
#[cfg(feature = "serde")]
mod json;
mod user;

pub use car::{Car, CarId, NewCar, PurchaseKey};
pub use input::{Field, InvalidInput, MAX_NAME_LENGTH};
pub use user::{NewUser, Registration, Role, User, UserId};

pub(crate) use input::{At, check_name, storable};

#[cfg(test)]
mod tests {
    use std::hash::Hash;

    use super::*;

    /// What a host may want to do with every value of the model. That it compiles is the test.
    #[test]
    fn values_can_be_copied_compared_hashed_and_sent() {
        fn value<T: Clone + std::fmt::Debug + Eq + Hash + Send + Sync + Unpin + 'static>() {}
        fn key<T: Copy + Ord + std::fmt::Display + std::str::FromStr + Hash>() {}
        value::<User>();
        value::<NewUser>();
        value::<Registration>();
        value::<Car>();
        value::<NewCar>();
        value::<crate::Page<User, UserId>>();
        value::<crate::PageRequest<CarId>>();
        key::<UserId>();
        key::<CarId>();
        key::<PurchaseKey>();
        key::<Role>();
    }
}
