//! What a request may ask for, seen from within.

use berth_cri::service::CriService;
use berth_cri::v1;

use crate::world::{remove_sandbox, run, run_container, run_sandbox, until};

fn context(config: &mut v1::ContainerConfig) -> &mut v1::LinuxContainerSecurityContext {
    config
        .linux
        .get_or_insert_default()
        .security_context
        .get_or_insert_default()
}

#[test]
fn a_program_runs_as_who_it_is_asked_to_be() {
    run(
        "options::a_program_runs_as_who_it_is_asked_to_be",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("user")).await;
            let script = "id -u; id -g; id -G; echo $HOME; \
                          grep CapEff /proc/self/status | cut -f2; \
                          grep NoNewPrivs /proc/self/status | cut -f2; \
                          grep Seccomp: /proc/self/status | cut -f2; \
                          touch /x 2>/dev/null || echo read-only";
            let mut config = world.container("main", script);
            let wanted = context(&mut config);
            wanted.run_as_username = "www-data".to_owned();
            wanted.supplemental_groups = vec![7000];
            wanted.readonly_rootfs = true;
            wanted.no_new_privs = true;
            // Without one a container of the CRI is not filtered.
            wanted.seccomp = Some(v1::SecurityProfile::default());
            let id = run_container(&engine, &pod, config).await;
            assert_eq!(engine.wait(&id).await.unwrap().exit_code, 0);
            assert_eq!(
                world.log("main"),
                "33\n33\n33 7000\n/var/www\n0000000000000000\n1\n2\nread-only\n"
            );
            let mut config = world.container("caps", "grep CapEff /proc/self/status | cut -f2");
            context(&mut config).capabilities = Some(v1::Capability {
                add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
                drop_capabilities: vec!["ALL".to_owned()],
                ..Default::default()
            });
            let id = run_container(&engine, &pod, config).await;
            engine.wait(&id).await.unwrap();
            assert_eq!(world.log("caps"), "0000000000000400\n");
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn mounts_are_where_they_are_asked_for() {
    run(
        "options::mounts_are_where_they_are_asked_for",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("mounts")).await;
            let place = world.directory.join("work/volume");
            std::fs::create_dir_all(&place).unwrap();
            std::fs::write(place.join("hosts"), "mine\n").unwrap();
            let mount = |host: &str, container: &str, readonly: bool| v1::Mount {
                host_path: place.join(host).display().to_string(),
                container_path: container.to_owned(),
                readonly,
                ..Default::default()
            };
            let mut config = world.container(
                "main",
                "cat /etc/hosts; echo written > /data/out; \
                 echo no 2>/dev/null > /data/inner/no || echo refused; cat /etc/hostname",
            );
            config.mounts = vec![
                mount("hosts", "/etc/hosts", true),
                mount(".", "/data/inner", true),
                mount(".", "/data", false),
            ];
            std::fs::create_dir(place.join("inner")).unwrap();
            let id = run_container(&engine, &pod, config).await;
            engine.wait(&id).await.unwrap();
            assert_eq!(world.log("main"), "mine\nrefused\nmounts\n");
            assert_eq!(
                std::fs::read_to_string(place.join("out")).unwrap(),
                "written\n"
            );
            remove_sandbox(&engine, &pod).await;
            assert!(place.join("out").exists(), "a volume outlives its pod");
        },
    );
}

#[test]
fn a_port_of_the_host_leads_to_the_pod() {
    run(
        "options::a_port_of_the_host_leads_to_the_pod",
        |world| async move {
            let engine = world.engine_with_image().await;
            let mut sandbox = world.sandbox("port");
            sandbox.port_mappings = vec![v1::PortMapping {
                container_port: 80,
                host_port: 8080,
                ..Default::default()
            }];
            sandbox.dns_config = Some(v1::DnsConfig {
                servers: vec!["10.9.8.7".to_owned()],
                ..Default::default()
            });
            let pod = run_sandbox(&engine, sandbox).await;
            let serve = "cp /etc/resolv.conf /tmp; httpd -f -p 80 -h /tmp";
            run_container(&engine, &pod, world.container("main", serve)).await;
            let ask = || async {
                let output = tokio::process::Command::new("curl")
                    .args(["-s", "-m", "2", "http://127.0.0.1:8080/resolv.conf"])
                    .output()
                    .await
                    .unwrap();
                output.stdout == b"nameserver 10.9.8.7\n"
            };
            until("the port answers", ask).await;
            remove_sandbox(&engine, &pod).await;
            assert!(!ask().await);
        },
    );
}

#[test]
fn a_privileged_pod_on_the_hosts_network_sees_the_host() {
    run(
        "options::a_privileged_pod_on_the_hosts_network_sees_the_host",
        |world| async move {
            let engine = world.engine_with_image().await;
            let mut sandbox = world.sandbox("host");
            sandbox.hostname.clear();
            let of_pod = sandbox
                .linux
                .get_or_insert_default()
                .security_context
                .get_or_insert_default();
            of_pod.privileged = true;
            let node = v1::NamespaceMode::Node as i32;
            let options = v1::NamespaceOption {
                network: node,
                pid: node,
                ipc: node,
                ..Default::default()
            };
            of_pod.namespace_options = Some(options.clone());
            let pod = run_sandbox(&engine, sandbox).await;
            let status = engine
                .pod_sandbox_status(v1::PodSandboxStatusRequest {
                    pod_sandbox_id: pod.clone(),
                    verbose: false,
                })
                .await
                .unwrap()
                .status
                .unwrap();
            assert_eq!(status.network.unwrap().ip, "");
            let mut config = world.container(
                "main",
                "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done; \
                 grep Seccomp: /proc/self/status | cut -f2; touch /proc/sys/kernel/shmmax && echo rw",
            );
            let wanted = context(&mut config);
            wanted.privileged = true;
            wanted.namespace_options = Some(options);
            let id = run_container(&engine, &pod, config).await;
            engine.wait(&id).await.unwrap();
            let own: String = ["net", "ipc", "uts", "pid"]
                .iter()
                .map(|name| {
                    let link = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
                    format!("{}\n", link.display())
                })
                .collect();
            assert_eq!(world.log("main"), format!("{own}0\nrw\n"));
            remove_sandbox(&engine, &pod).await;
        },
    );
}

#[test]
fn a_start_that_fails_tells_why() {
    run(
        "options::a_start_that_fails_tells_why",
        |world| async move {
            let engine = world.engine_with_image().await;
            let pod = run_sandbox(&engine, world.sandbox("fail")).await;
            let mut config = world.container("main", "");
            config.command = vec!["/no/such/program".to_owned()];
            let created = engine
                .create_container(v1::CreateContainerRequest {
                    pod_sandbox_id: pod.clone(),
                    config: Some(config),
                    sandbox_config: None,
                })
                .await;
            // The OCI lets a runtime look for the program at create or at start.
            let error = match created {
                Err(error) => error,
                Ok(made) => {
                    let id = made.container_id;
                    let request = v1::StartContainerRequest {
                        container_id: id.clone(),
                    };
                    let error = engine.start_container(request).await.unwrap_err();
                    let view = engine.view(&id).await.unwrap();
                    assert_eq!((view.exit_code, view.reason), (127, "StartError"));
                    error
                }
            };
            assert!(error.message().contains("/no/such/program"), "{error}");
            assert!(error.message().contains("no such file"), "{error}");
            remove_sandbox(&engine, &pod).await;
        },
    );
}
