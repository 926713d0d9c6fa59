use std::fmt;
use std::str::FromStr;

use chrono::{NaiveDate, Utc};

use super::id::id_type;
use super::input::{Field, InvalidInput, check_date, check_name};

id_type! {
    /// Identifies a [`User`]. The database hands it out, rising from 1.
    UserId
}

/// What a user is at the school. The default is [`Role::Employee`].
///
/// ```
/// use motorpool::Role;
///
/// assert_eq!("teacher".parse(), Ok(Role::Teacher));
/// assert_eq!(Role::Teacher.as_str(), "teacher");
/// assert_eq!(Role::default(), Role::Employee);
/// assert_eq!(Role::ALL.len(), 3);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// `student`
    Student,
    /// `teacher`
    Teacher,
    /// `employee`
    #[default]
    Employee,
}

impl Role {
    /// All roles, in the order of their declaration.
    pub const ALL: [Role; 3] = [Role::Student, Role::Teacher, Role::Employee];

    /// The text under which the role is stored, the same that [`Display`](fmt::Display) writes and
    /// [`FromStr`] reads.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Student => "student",
            Role::Teacher => "teacher",
            Role::Employee => "employee",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Role {
    type Err = InvalidInput;

    fn from_str(text: &str) -> Result<Self, InvalidInput> {
        Role::ALL
            .into_iter()
            .find(|role| role.as_str() == text)
            .ok_or(InvalidInput::Role)
    }
}

/// A registered user.
///
/// ```
/// use motorpool::{NewUser, UserId};
///
/// let ada = NewUser::new("Ada")?.with_id(UserId::new(7));
/// assert_eq!(ada.to_string(), "Ada (employee)");
/// # Ok::<(), motorpool::InvalidInput>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct User {
    /// Handed out by the database.
    pub id: UserId,
    /// Unique. Compared exactly as given: case and Unicode normal form count.
    pub username: String,
    /// The day of registration.
    pub created_at: NaiveDate,
    /// What the user is.
    pub role: Role,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.username, self.role)
    }
}

/// A user to register: input that has been checked.
///
/// ```
/// use motorpool::{NewUser, Role};
///
/// let new = NewUser::new("Tristan")?.role(Role::Teacher);
/// assert_eq!(new.username(), "Tristan");
/// assert!(NewUser::new(" Tristan").is_err());
/// # Ok::<(), motorpool::InvalidInput>(())
/// ```
///
/// With the feature `serde` it is `{"username":"Tristan","created_at":"2026-01-01","role":"teacher"}`.
/// Reading it makes all checks. Only the name has to be there; fields of other names are refused.
/// Whoever sends it chooses the role and the date as well: a service that lets anybody register
/// themselves reads a type of its own, with the name alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub struct NewUser {
    username: String,
    created_at: NaiveDate,
    role: Role,
}

impl NewUser {
    /// A user with the role [`Role::Employee`], created today (in UTC).
    ///
    /// # Errors
    /// [`InvalidInput`] unless the username has 1 to 255 characters, no control character and no
    /// white space at either end.
    pub fn new(username: impl Into<String>) -> Result<NewUser, InvalidInput> {
        let username = username.into();
        check_name(Field::Username, &username)?;
        Ok(NewUser {
            username,
            created_at: Utc::now().date_naive(),
            role: Role::default(),
        })
    }

    /// Sets the role.
    pub fn role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Sets the day of registration. A day before 24 November 4714 BC cannot be stored:
    /// [`UserRepo::register`](crate::UserRepo::register) refuses it.
    pub fn created_at(mut self, date: NaiveDate) -> Self {
        self.created_at = date;
        self
    }

    /// The username.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The user that this becomes once it has an id: what an implementation of
    /// [`UserRepo`](crate::UserRepo) stores.
    pub fn with_id(&self, id: UserId) -> User {
        User {
            id,
            username: self.username.clone(),
            created_at: self.created_at,
            role: self.role,
        }
    }

    /// The checks that [`new`](Self::new) could not make yet. An implementation of
    /// [`UserRepo`](crate::UserRepo) calls it before any I/O.
    ///
    /// # Errors
    /// [`InvalidInput::DateTooEarly`]
    pub fn check(&self) -> Result<(), InvalidInput> {
        check_date(self.created_at)
    }

    /// The same for many.
    ///
    /// # Errors
    /// [`InvalidInput::DateTooEarly`], with the index of the first that fails.
    pub fn check_all(new: &[NewUser]) -> Result<(), InvalidInput> {
        new.iter().enumerate().try_for_each(|(index, user)| {
            user.check().map_err(|error| match error {
                InvalidInput::DateTooEarly { .. } => {
                    InvalidInput::DateTooEarly { index: Some(index) }
                }
                other => other,
            })
        })
    }

    pub(crate) fn date(&self) -> NaiveDate {
        self.created_at
    }

    pub(crate) fn role_text(&self) -> &'static str {
        self.role.as_str()
    }
}

/// What [`UserRepo::register`](crate::UserRepo::register) found.
///
/// ```
/// # fn example(registration: motorpool::Registration) {
/// use motorpool::Registration;
///
/// if let Registration::Existing(user) = &registration {
///     println!("{user} has been here since {}", user.created_at);
/// }
/// let was_new = registration.is_created();
/// let user = registration.into_user();
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum Registration {
    /// The name was free: this user was stored.
    Created(User),
    /// The name was taken: the stored user, unchanged.
    Existing(User),
}

impl Registration {
    /// The stored user, whoever stored it.
    pub fn user(&self) -> &User {
        match self {
            Registration::Created(user) | Registration::Existing(user) => user,
        }
    }

    /// The stored user, whoever stored it.
    pub fn into_user(self) -> User {
        match self {
            Registration::Created(user) | Registration::Existing(user) => user,
        }
    }

    /// Whether this call stored the user.
    pub fn is_created(&self) -> bool {
        matches!(self, Registration::Created(_))
    }
}
