//! Texts that cannot be read, and what is said about them.

use super::*;

const BAD: &[(&str, &str)] = &[
    // The text as a whole.
    ("", "is empty"),
    (" \n", "is empty"),
    ("canary", "no `=` after it"),
    (
        "postgress://u:canary@h/d",
        "has to begin with postgresql://",
    ),
    ("mysql://canary", "has to begin with postgresql://"),
    (
        "jdbc:postgresql://h/d?password=canary",
        "has to begin with postgresql://",
    ),
    (
        "POSTGRESQL://u:canary@h/d",
        "has to begin with postgresql://",
    ),
    (
        "postgresql+asyncpg://u:canary@h/d",
        "has to begin with postgresql://",
    ),
    ("postgresql:u:canary@h/d", "no `=` after it"),
    // Parts of a URL.
    ("postgresql://u:can@ary@h/d", "written %40"),
    ("postgresql://u:can/ary@h/d", "written %40"),
    ("postgresql://u:12/canary@h/d", "written %40"),
    ("postgresql://h?password=canary@k", "has an `@` after a `?`"),
    ("postgresql://u:canary%@h/d", "has a `%` without"),
    ("postgresql://u:%4-canary@h/d", "has a `%` without"),
    ("postgresql://u:%zzcanary@h/d", "has a `%` without"),
    (
        "postgresql://u:canary%00@h/d",
        "`password` holds a character",
    ),
    ("postgresql://canary%ff@h/d", "`user` is not UTF-8"),
    ("postgresql://h/%ffcanary", "`dbname` is not UTF-8"),
    ("postgresql://%ffcanary/d", "`host` is not UTF-8"),
    ("postgresql://u:canary@[::1/d", "a `[` without a `]`"),
    ("postgresql://u:canary@[::1]x/d", "behind a `]`"),
    ("postgresql://u:canary@[]/d", "nothing between"),
    ("postgresql://u:canary@[]:1,h/d", "nothing between"),
    (
        "postgresql://u:canary@h,[fe80::1%25eth0]/d",
        "`host` names the network card",
    ),
    ("postgresql://u:canary", "`port` is not a number"),
    ("postgresql://u:canary@h:port/d", "`port` is not a number"),
    ("postgresql://u:canary@h:0/d", "`port` is not a number"),
    ("postgresql://u:canary@h:65536/d", "`port` is not a number"),
    ("postgresql://u:canary@h:-1/d", "`port` is not a number"),
    ("postgresql://can%20ary/d", "`host` is not a host name"),
    ("postgresql://canary%40h/d", "`host` is not a host name"),
    ("postgresql://h/d?host=h:5432", "`host` is not a host name"),
    // Parameters.
    ("postgresql://h/d?canary", "without a `=`"),
    ("postgresql://h/d?&user=canary", "without a `=`"),
    ("postgresql://h/d?&", "without a `=`"),
    ("postgresql://h/d?password=can=ary", "two `=`"),
    (
        "postgresql://h/d?sslmod=canary",
        "key 1 of the database URL is not one that libpq knows; is `sslmode` meant?",
    ),
    (
        "postgresql://h/d?user=u&Password=canary",
        "key 2 of the database URL is not one that libpq knows; is `password` meant?",
    ),
    (
        "postgresql://h/d?canary=1",
        "key 1 of the database URL is not one that libpq knows; it is not quoted",
    ),
    ("postgresql://h/d?=canary", "key 1 of"),
    (
        "postgresql://h/d?pgbouncer=true",
        "not one that libpq knows",
    ),
    (
        "postgresql://h/d?sslmode=canary",
        "`sslmode` is disable, allow, prefer",
    ),
    (
        "postgresql://h/d?sslmode=",
        "`sslmode` is disable, allow, prefer",
    ),
    (
        "postgresql://h/d?sslmode=Require",
        "`sslmode` is disable, allow, prefer",
    ),
    ("postgresql://h/d?ssl=canary", "`ssl` is not supported"),
    ("postgresql://h/d?ssl=TRUE", "`ssl` is not supported"),
    (
        "postgresql://h/d?sslrootcert=system&sslmode=require",
        "`sslmode` has to be verify-full",
    ),
    (
        "postgresql://h/d?sslrootcert=system&sslmode=verify-ca",
        "`sslmode` has to be verify-full",
    ),
    (
        "postgresql://h/d?sslmode=verify-ca",
        "`sslmode` can be verify-ca only where",
    ),
    (
        "postgresql://h/d?sslnegotiation=direct",
        "`sslnegotiation` can be direct only where",
    ),
    (
        "postgresql://h/d?sslnegotiation=direct&sslmode=disable",
        "`sslnegotiation` can be direct only where",
    ),
    (
        "postgresql://h/d?sslnegotiation=canary",
        "`sslnegotiation` is postgres or direct",
    ),
    ("postgresql://h/d?sslcert=canary", "`sslcert` is of no use"),
    ("postgresql://h/d?sslkey=canary", "`sslkey` is of no use"),
    (
        "postgresql://h/d?ssl_min_protocol_version=TLSv1",
        "`ssl_min_protocol_version` is TLSv1.2 or",
    ),
    (
        "postgresql://h/d?channel_binding=require&sslmode=disable",
        "`channel_binding` cannot be required",
    ),
    (
        "postgresql://h/d?channel_binding=canary",
        "`channel_binding` is disable, prefer",
    ),
    (
        "postgresql://h/d?target_session_attrs=canary",
        "`target_session_attrs` is any, read-write",
    ),
    (
        "postgresql://h/d?load_balance_hosts=canary",
        "`load_balance_hosts` is disable or random",
    ),
    (
        "postgresql://h/d?client_encoding=LATIN1",
        "`client_encoding` can only be",
    ),
    (
        "postgresql://h/d?connect_timeout=canary",
        "`connect_timeout` is not a whole number",
    ),
    (
        "postgresql://h/d?connect_timeout=1.5",
        "`connect_timeout` is not a whole number",
    ),
    (
        "postgresql://h/d?connect_timeout=99999999999",
        "`connect_timeout` is not a whole number",
    ),
    (
        "postgresql://h/d?connect_timeout=",
        "`connect_timeout` is not a whole number",
    ),
    (
        "postgresql://h/d?tcp_user_timeout=5s",
        "`tcp_user_timeout` is not a whole number",
    ),
    (
        "postgresql://h/d?keepalives=on",
        "`keepalives` is not a whole number",
    ),
    (
        "postgresql://h/d?keepalives_idle=canary",
        "`keepalives_idle` is not a whole number",
    ),
    (
        "postgresql://h/d?keepalives_interval=canary",
        "`keepalives_interval` is not a whole",
    ),
    (
        "postgresql://h/d?keepalives_retries=canary",
        "`keepalives_count` is not a whole number",
    ),
    (
        "postgresql://h/d?gssencmode=require",
        "`gssencmode` is not supported",
    ),
    (
        "postgresql://h/d?krbsrvname=canary",
        "`krbsrvname` is not supported",
    ),
    (
        "postgresql://h/d?service=canary",
        "`service` is not supported",
    ),
    (
        "postgresql://h/d?require_auth=canary",
        "`require_auth` is not supported",
    ),
    (
        "postgresql://h/d?sslcrl=canary",
        "`sslcrl` is not supported",
    ),
    (
        "postgresql://h/d?sslpassword=canary",
        "`sslpassword` is not supported",
    ),
    (
        "postgresql://h/d?replication=database",
        "`replication` is not supported",
    ),
    // Lists.
    (
        "postgresql://a,b/d?port=1,2,3",
        "`port` has to be one for all hosts",
    ),
    (
        "postgresql://a/d?port=1,2",
        "`port` has to be one for all hosts",
    ),
    (
        "host=a,b hostaddr=10.0.0.1",
        "`hostaddr` has to be as many as `host`",
    ),
    (
        "hostaddr=10.0.0.1,10.0.0.2 host=a",
        "`hostaddr` has to be as many as `host`",
    ),
    ("hostaddr=canary", "`hostaddr` is not an IP address"),
    ("port=1,2", "`port` has to be one for all hosts"),
    // Keys and values.
    (
        "host=localhost password='canary",
        "a quote that is not closed",
    ),
    (r"password='canary\'", "a quote that is not closed"),
    ("password=my canary host=x", "no `=` after it"),
    ("password=my canary=x host=h", "key 2 of"),
    ("password=my sslmod=canary", "is `sslmode` meant?"),
    ("host=h canary", "no `=` after it"),
    ("=canary", "key 1 of"),
    ("host=h ssl=true", "`ssl` is not supported"),
    ("host=h password=can\0ary", "`password` holds a character"),
    ("host='a, b'", "`host` is not a host name"),
    ("host=hpassword=canary", "`host` is not a host name"),
    ("host=/runpassword=canary", "`host` is not a host name"),
    ("host=@canary", "`host` is not a host name"),
];

#[test]
fn a_text_that_cannot_be_read_is_an_error_that_quotes_nothing() {
    let mut wrong = Vec::new();
    for (url, says) in BAD {
        match parse(url) {
            Ok(target) => wrong.push(format!("{url:?}: {}", say(&target))),
            Err(error) => {
                let said = format!("{error} {error:?}");
                if !said.contains(says) || said.contains("can") && said.contains("ary") {
                    wrong.push(format!("{url:?}: {error}, not {says}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_error_says_where_it_is() {
    let said = parse("postgresql://h?sslmode=x").expect_err("no such mode");
    let expected = "in the database URL, `sslmode` is disable, allow, prefer, require, verify-ca \
                    or verify-full";
    assert!(said.to_string().ends_with(expected), "{said}");
}
