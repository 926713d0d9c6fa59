//! Random values there and back, random nonsense that must not leak, and the driver's own reading.

use proptest::prelude::*;
use proptest::sample::Index;
use tokio_postgres::config::Host;

use super::*;

/// No three letters of it in a row are in any error.
const CANARY: &str = "QZXJ9KWV7";

fn percent(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

fn quote(text: &str) -> String {
    let escaped = text.replace('\\', r"\\").replace('\'', r"\'");
    format!("'{escaped}'")
}

fn escape(text: &str) -> String {
    text.chars().flat_map(|c| ['\\', c]).collect()
}

/// Whether any form of what came of the text shows a piece of the canary.
fn leak(result: &Result<Target>) -> Option<String> {
    let forms = match result {
        Ok(target) => format!("{target:?} {target:#?}"),
        Err(error) => {
            assert!(matches!(error, Error::Config { .. }), "{error}");
            assert!(std::error::Error::source(error).is_none(), "{error:?}");
            format!("{error} {error:?} {error:#?}")
        }
    };
    let pieces = CANARY.as_bytes().windows(3);
    let shown = |piece: &[u8]| {
        forms
            .as_bytes()
            .windows(3)
            .any(|w| w.eq_ignore_ascii_case(piece))
    };
    pieces.into_iter().any(shown).then_some(forms)
}

/// Texts with the canary for a password.
fn with_canary() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        format!("postgresql://app:{CANARY}@db.example.com:5433/shop?sslmode=require"),
        format!("postgres://app:{CANARY}@[::1]:1,h2/shop?target_session_attrs=primary"),
        format!("postgresql+psycopg2://app:{CANARY}@%2Fvar%2Frun/shop"),
        format!("postgresql://db/shop?user=app&password={CANARY}&connect_timeout=3"),
        format!("postgresql://db?password={CANARY}&user=app"),
        format!("host=db user=app password={CANARY} dbname=shop port=1"),
        format!("host=/run user=app password='{CANARY}' sslmode = prefer"),
        format!("password={CANARY} hostaddr=10.0.0.1,::1 port=1,2"),
    ])
}

#[derive(Clone, Debug)]
enum Slip {
    Drop,
    Add(char),
    Change(char),
    Swap,
    Cut,
}

fn slips() -> impl Strategy<Value = (Slip, Index)> {
    let letter = || {
        prop_oneof![
            4 => prop::sample::select(":/?#[]@,=&%'\\ \t\n\0+.;\"".chars().collect::<Vec<_>>()),
            1 => any::<char>(),
        ]
    };
    let slip = prop_oneof![
        3 => Just(Slip::Drop),
        3 => letter().prop_map(Slip::Add),
        3 => letter().prop_map(Slip::Change),
        2 => Just(Slip::Swap),
        1 => Just(Slip::Cut),
    ];
    (slip, any::<Index>())
}

fn misspell(text: &str, slips: &[(Slip, Index)]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (slip, at) in slips {
        if chars.len() < 2 {
            break;
        }
        let at = at.index(chars.len() - 1);
        match *slip {
            Slip::Drop => drop(chars.remove(at)),
            Slip::Add(c) => chars.insert(at, c),
            Slip::Change(c) => chars[at] = c,
            Slip::Swap => chars.swap(at, at + 1),
            Slip::Cut => chars.truncate(at),
        }
    }
    chars.into_iter().collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 1000, ..ProptestConfig::default() })]

    #[test]
    fn values_come_back_from_every_form(
        user in "[^\0]{1,12}",
        password in "[^\0]{1,20}",
        dbname in "[^\0]{1,12}",
        options in "[^\0]{1,12}",
        host in "[a-z0-9.-]{1,12}|/[^\0-\x1f\x7f-\u{9f}=,]{0,12}",
        port in 1u16..,
    ) {
        let texts = [
            format!(
                "postgresql://{}:{}@{}:{port}/{}?options={}",
                percent(&user), percent(&password), percent(&host), percent(&dbname),
                percent(&options),
            ),
            format!(
                "postgres://?user={}&password={}&host={}&port={port}&dbname={}&options={}",
                percent(&user), percent(&password), percent(&host), percent(&dbname),
                percent(&options),
            ),
            format!(
                "user={} password={} host={} port={port} dbname={} options={}",
                quote(&user), quote(&password), quote(&host), quote(&dbname), quote(&options),
            ),
            format!(
                "user ={}\tpassword= {}\nhost = {} port={port} dbname={} options={}",
                escape(&user), escape(&password), escape(&host), escape(&dbname),
                escape(&options),
            ),
        ];
        for text in texts {
            let target = parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
            prop_assert_eq!(target.endpoints().len(), 1);
            prop_assert_eq!(target.endpoints()[0].address(), host.as_str());
            prop_assert_eq!(target.endpoints()[0].port(), port);
            let config = target.configs().remove(0);
            prop_assert_eq!(config.get_user(), Some(user.as_str()));
            prop_assert_eq!(config.get_password(), Some(password.as_bytes()));
            prop_assert_eq!(config.get_dbname(), Some(dbname.as_str()));
            prop_assert_eq!(config.get_options(), Some(options.as_str()));
        }
    }

    #[test]
    fn no_text_shows_a_piece_of_itself(
        before in r"(postgres(ql)?://)?[a-z0-9:/?@,=&%'\\ \[\]]{0,30}|.{0,30}",
        after in r"[a-z0-9:/?@,=&%'\\ \[\]]{0,30}|.{0,30}",
    ) {
        let text = format!("{before}{CANARY}{after}");
        prop_assert_eq!(leak(&parse(&text)), None, "{}", text);
    }

    #[test]
    fn a_misspelt_text_shows_no_piece_of_the_password(
        text in with_canary(),
        slips in prop::collection::vec(slips(), 1..5),
    ) {
        let text = misspell(&text, &slips);
        prop_assert_eq!(leak(&parse(&text)), None, "{}", text);
    }

    /// One slip does not make a host of the password, which would go to logs and to the DNS.
    #[test]
    fn one_slip_makes_no_host_of_the_password(text in with_canary(), slip in slips()) {
        let text = misspell(&text, &[slip]);
        if let Ok(target) = parse(&text) {
            let hosts: Vec<_> = target.endpoints().iter().map(Endpoint::to_string).collect();
            prop_assert!(!hosts.join(",").contains(CANARY), "{text}: {hosts:?}");
        }
    }

    /// Where both can read it, the driver and we agree. Left out is what it reads otherwise than
    /// libpq: repeated hosts and ports, empty values, seconds for milliseconds.
    #[test]
    fn the_driver_reads_the_same(
        scheme in "postgres(ql)?://",
        credentials in "(([a-z]|%20){1,4}(:([a-z:?#]|%4[0f]){1,6})?@)?",
        host in r"([a-z]{1,3}(:[1-9]{1,4})?|\[::[1-9]\](:[1-9]{1,4})?|%2F[a-z]{1,4}){1}(,[a-z]{1,3}(:[1-9]{1,4})?){0,2}",
        path in "(/([a-z/]|%20){0,5})?",
        parameters in prop::sample::subsequence(vec![
            "options=-c%20a", "application_name=n", "sslmode=require", "sslmode=disable",
            "connect_timeout=4", "keepalives=0", "keepalives_idle=5", "keepalives_interval=6",
            "keepalives_retries=7", "channel_binding=prefer", "user=v", "password=w", "dbname=e",
        ], 0..6),
    ) {
        let query = match parameters.is_empty() {
            true => String::new(),
            false => format!("?{}", parameters.join("&")),
        };
        let text = format!("{scheme}{credentials}{host}{path}{query}");
        let Ok(theirs) = text.parse::<Config>() else {
            // It may be more strict than libpq, but then so are we.
            prop_assert!(parse(&text).is_err(), "{text}");
            return Ok(());
        };
        let target = parse(&text).map_err(|e| TestCaseError::fail(format!("{text}: {e}")))?;
        let ours = target.configs();
        let hosts: Vec<Host> = ours.iter().flat_map(Config::get_hosts).cloned().collect();
        let ports: Vec<u16> = ours.iter().flat_map(Config::get_ports).copied().collect();
        prop_assert_eq!(hosts.as_slice(), theirs.get_hosts(), "{}", text);
        prop_assert_eq!(ports.as_slice(), theirs.get_ports(), "{}", text);
        let ours = &ours[0];
        prop_assert_eq!(ours.get_user(), theirs.get_user(), "{}", text);
        prop_assert_eq!(ours.get_password(), theirs.get_password(), "{}", text);
        prop_assert_eq!(ours.get_dbname(), theirs.get_dbname(), "{}", text);
        prop_assert_eq!(ours.get_options(), theirs.get_options(), "{}", text);
        // The connector has it from the target, and tells the driver something else.
        let mode = format!("{:?}", target.tls.mode(false));
        prop_assert_eq!(mode, format!("{:?}", theirs.get_ssl_mode()), "{}", text);
        prop_assert_eq!(ours.get_keepalives(), theirs.get_keepalives(), "{}", text);
        prop_assert_eq!(target.connect_timeout, theirs.get_connect_timeout().copied());
        if text.contains("keepalives") {
            prop_assert_eq!(ours.get_keepalives_idle(), theirs.get_keepalives_idle());
            prop_assert_eq!(ours.get_keepalives_interval(), theirs.get_keepalives_interval());
            prop_assert_eq!(ours.get_keepalives_retries(), theirs.get_keepalives_retries());
        }
    }
}
