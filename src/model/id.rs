//! The shape that both ids share.

/// Defines a 64-bit id that cannot be mistaken for another one.
macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        ///
        /// Any `i64` can be wrapped: an id that nothing has is simply not found. The text form
        /// ([`Display`](std::fmt::Display), [`FromStr`](std::str::FromStr)) is the decimal number,
        /// and with the feature `serde` it is a number too: in JSON a number, not a text, except
        /// as the key of a map.
        ///
        /// ```
        #[doc = concat!("use motorpool::", stringify!($name), ";")]
        ///
        #[doc = concat!("let id = ", stringify!($name), "::new(41);")]
        /// assert_eq!(id.get(), 41);
        /// assert_eq!("41".parse(), Ok(id));
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
        #[cfg_attr(feature = "serde", serde(transparent))]
        pub struct $name(i64);

        impl $name {
            /// Wraps a number.
            pub const fn new(id: i64) -> Self {
                Self(id)
            }

            /// The number.
            pub const fn get(self) -> i64 {
                self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::model::InvalidInput;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse()
                    .map(Self)
                    .map_err(|_| $crate::model::InvalidInput::Id)
            }
        }

        impl From<i64> for $name {
            fn from(id: i64) -> Self {
                Self(id)
            }
        }

        impl From<$name> for i64 {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

pub(super) use id_type;
