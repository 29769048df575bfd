use proptest::prelude::{Just, Strategy, any, prop_assert_eq, prop_oneof, proptest};

use super::assemble;
use crate::cgroup::devices::{Access, DeviceKind, DeviceRequest, DeviceRule, evaluate, plan_rules};

/// Runs the program in user space, on a context as the kernel makes it.
fn interpret(rules: &[DeviceRule], request: &DeviceRequest) -> bool {
    let program = assemble(rules);
    let machine = rbpf::EbpfVmRaw::new(Some(&program)).expect("it verifies");
    let kind: u32 = match request.kind {
        DeviceKind::Block => 1,
        DeviceKind::Char => 2,
    };
    let access_type = u32::from(request.access.bits()) << 16 | kind;
    let mut context: Vec<u8> = [access_type, request.major, request.minor]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .collect();
    machine.execute_program(&mut context).expect("it ends") == 1
}

fn access() -> impl Strategy<Value = Access> {
    (any::<bool>(), any::<bool>(), 0_usize..3).prop_map(|(read, write, first)| {
        let mut all = [Access::MAKE, Access::READ, Access::WRITE][first];
        for (wanted, right) in [(read, Access::READ), (write, Access::WRITE)] {
            if wanted {
                all = all.union(right);
            }
        }
        all
    })
}

fn kind() -> impl Strategy<Value = DeviceKind> {
    prop_oneof![Just(DeviceKind::Block), Just(DeviceKind::Char)]
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![
        0_u32..3,
        Just(136),
        Just((1 << 20) - 1),
        Just(i32::MAX as u32)
    ]
}

fn rule() -> impl Strategy<Value = DeviceRule> {
    let one = proptest::option::of(number());
    let other = proptest::option::of(number());
    (
        any::<bool>(),
        proptest::option::of(kind()),
        one,
        other,
        access(),
    )
        .prop_map(|(allow, kind, major, minor, access)| DeviceRule {
            allow,
            kind,
            major,
            minor,
            access,
        })
}

fn request() -> impl Strategy<Value = DeviceRequest> {
    (kind(), number(), number(), access()).prop_map(|(kind, major, minor, access)| DeviceRequest {
        kind,
        major,
        minor,
        access,
    })
}

#[test]
fn the_default_program_is_small() {
    let rules = plan_rules(None).expect("rules");
    assert!(
        assemble(&rules).len() / 8 < 120,
        "{}",
        assemble(&rules).len() / 8
    );
}

proptest! {
    #[test]
    fn the_program_says_what_the_rules_say(
        rules in proptest::collection::vec(rule(), 0..8),
        request in request(),
    ) {
        prop_assert_eq!(interpret(&rules, &request), evaluate(&rules, &request));
    }

    #[test]
    fn so_does_the_default_program(request in request()) {
        let rules = plan_rules(None).expect("rules");
        prop_assert_eq!(interpret(&rules, &request), evaluate(&rules, &request));
    }
}
