//! Reasons of conditions: words for programs, each of which people find in the documentation.

/// An enum of reasons, how a condition spells each, and the list of all: one place, so that none is left out of the list.
macro_rules! reasons {
    ($(#[$about:meta])* $name:ident { $($(#[$what:meta])* $reason:ident => $spelt:literal,)+ }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$what])* $reason,)+
        }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$reason),+];

            /// As the condition spells it.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$reason => $spelt,)+
                }
            }
        }
    };
}

pub(crate) use reasons;
