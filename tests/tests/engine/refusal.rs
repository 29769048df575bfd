//! What is refused, and leaves nothing.

use berth_cri::service::CriService;
use berth_cri::v1;
use tonic::Code;

use crate::world::{remove_sandbox, run, run_sandbox};

#[test]
fn bad_requests_are_refused_and_leave_nothing() {
    run(
        "refusal::bad_requests_are_refused_and_leave_nothing",
        |world| async move {
            let engine = world.engine_with_image().await;
            let refused = |config: v1::PodSandboxConfig, handler: &str| {
                let (engine, handler) = (engine.clone(), handler.to_owned());
                async move {
                    engine
                        .run_pod_sandbox(v1::RunPodSandboxRequest {
                            config: Some(config),
                            runtime_handler: handler,
                        })
                        .await
                        .unwrap_err()
                }
            };
            let error = refused(v1::PodSandboxConfig::default(), "").await;
            assert_eq!(error.code(), Code::InvalidArgument);
            let error = refused(world.sandbox("x"), "kata").await;
            assert!(error.message().contains("runtime_handler"), "{error}");
            let mut sysctl = world.sandbox("x");
            sysctl
                .linux
                .get_or_insert_default()
                .sysctls
                .insert("net.ipv4.no_such_thing".to_owned(), "1".to_owned());
            let error = refused(sysctl, "").await;
            assert!(error.message().contains("no_such_thing"), "{error}");

            let pod = run_sandbox(&engine, world.sandbox("first")).await;
            let error = refused(world.sandbox("first"), "").await;
            assert_eq!(error.code(), Code::AlreadyExists);
            let mut taken = world.sandbox("ports");
            taken.port_mappings = vec![v1::PortMapping {
                host_port: 8080,
                container_port: 80,
                host_ip: "nonsense".to_owned(),
                ..Default::default()
            }];
            let error = refused(taken, "").await;
            assert!(error.message().contains("host_ip"), "{error}");

            for (change, code, part) in container_mistakes() {
                let mut config = world.container("bad", "true");
                change(&mut config);
                let error = engine
                    .create_container(v1::CreateContainerRequest {
                        pod_sandbox_id: pod.clone(),
                        config: Some(config),
                        sandbox_config: None,
                    })
                    .await
                    .unwrap_err();
                assert_eq!(error.code(), code, "{error}");
                assert!(error.message().contains(part), "{error}");
            }
            let list = engine
                .list_containers(v1::ListContainersRequest::default())
                .await
                .unwrap();
            assert!(list.containers.is_empty());
            assert!(engine.records().container_ids(&pod).unwrap().is_empty());
            let bundles = engine.paths().pod(&pod).join("containers");
            assert_eq!(std::fs::read_dir(bundles).unwrap().count(), 0);
            remove_sandbox(&engine, &pod).await;
        },
    );
}

type Mistake = (fn(&mut v1::ContainerConfig), Code, &'static str);

fn container_mistakes() -> Vec<Mistake> {
    vec![
        (
            |config| config.image.get_or_insert_default().image = "nowhere/none:1".to_owned(),
            Code::NotFound,
            "has to be pulled first",
        ),
        (
            |config| {
                config.mounts = vec![v1::Mount {
                    host_path: "/no/such/place".to_owned(),
                    container_path: "/data".to_owned(),
                    ..Default::default()
                }];
            },
            Code::InvalidArgument,
            "/no/such/place",
        ),
        (
            |config| {
                config
                    .linux
                    .get_or_insert_default()
                    .security_context
                    .get_or_insert_default()
                    .run_as_username = "nobody-knows".to_owned();
            },
            Code::InvalidArgument,
            "nobody-knows",
        ),
        (
            |config| {
                config
                    .linux
                    .get_or_insert_default()
                    .security_context
                    .get_or_insert_default()
                    .privileged = true;
            },
            Code::InvalidArgument,
            "privileged",
        ),
    ]
}

#[test]
fn what_is_not_there_is_not_found_or_already_gone() {
    run(
        "refusal::what_is_not_there_is_not_found_or_already_gone",
        |world| async move {
            let engine = world.engine().await;
            let nobody = "0123456789abcdef0123456789abcdef".to_owned();
            let error = engine
                .container_status(v1::ContainerStatusRequest {
                    container_id: nobody.clone(),
                    verbose: false,
                })
                .await
                .unwrap_err();
            assert_eq!(error.code(), Code::NotFound);
            let error = engine
                .start_container(v1::StartContainerRequest {
                    container_id: "../../etc".to_owned(),
                })
                .await
                .unwrap_err();
            assert_eq!(error.code(), Code::NotFound);
            engine
                .stop_container(v1::StopContainerRequest {
                    container_id: nobody.clone(),
                    timeout: 0,
                })
                .await
                .unwrap();
            engine
                .remove_container(v1::RemoveContainerRequest {
                    container_id: nobody.clone(),
                })
                .await
                .unwrap();
            remove_sandbox(&engine, &nobody).await;
            let status = engine
                .image_status(v1::ImageStatusRequest {
                    image: Some(v1::ImageSpec {
                        image: "nowhere/none:1".to_owned(),
                        ..Default::default()
                    }),
                    verbose: false,
                })
                .await
                .unwrap();
            assert_eq!(status.image, None);
            engine
                .remove_image(v1::RemoveImageRequest {
                    image: Some(v1::ImageSpec {
                        image: "nowhere/none:1".to_owned(),
                        ..Default::default()
                    }),
                })
                .await
                .unwrap();
        },
    );
}
