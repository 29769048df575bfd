// Command wire judges how the API reads Kubernetes' protocol buffers, by the Go
// types that every Go client encodes with.
//
//	wire table              each type that bodies reach: its fields' numbers and how JSON has them
//	wire objects N SEED     N random objects of each kind: a line each with its name, its bytes in
//	                        base64 as a client sends them, and the same object in JSON
package main

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	batchv1 "k8s.io/api/batch/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	eventsv1 "k8s.io/api/events/v1"
	nodev1 "k8s.io/api/node/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
)

// Kinds that clients send, in the order of berth's table.
var kinds = []struct {
	version string
	object  runtime.Object
}{
	{"v1", &corev1.Binding{}},
	{"v1", &corev1.ConfigMap{}},
	{"v1", &corev1.Event{}},
	{"v1", &corev1.Namespace{}},
	{"v1", &corev1.Node{}},
	{"v1", &corev1.Pod{}},
	{"v1", &corev1.Secret{}},
	{"v1", &corev1.Service{}},
	{"v1", &corev1.ServiceAccount{}},
	{"apps/v1", &appsv1.ControllerRevision{}},
	{"apps/v1", &appsv1.DaemonSet{}},
	{"apps/v1", &appsv1.Deployment{}},
	{"apps/v1", &appsv1.ReplicaSet{}},
	{"autoscaling/v1", &autoscalingv1.Scale{}},
	{"batch/v1", &batchv1.CronJob{}},
	{"batch/v1", &batchv1.Job{}},
	{"coordination.k8s.io/v1", &coordinationv1.Lease{}},
	{"discovery.k8s.io/v1", &discoveryv1.EndpointSlice{}},
	{"events.k8s.io/v1", &eventsv1.Event{}},
	{"node.k8s.io/v1", &nodev1.RuntimeClass{}},
	{"policy/v1", &policyv1.Eviction{}},
	{"policy/v1", &policyv1.PodDisruptionBudget{}},
	{"scheduling.k8s.io/v1", &schedulingv1.PriorityClass{}},
	{"storage.k8s.io/v1", &storagev1.CSINode{}},
	{"v1", &metav1.DeleteOptions{}},
}

func main() {
	err := errors.New("expected table, or objects N SEED")
	switch {
	case len(os.Args) == 2 && os.Args[1] == "table":
		printTable()
		return
	case len(os.Args) == 4 && os.Args[1] == "objects":
		err = printObjects(os.Args[2], os.Args[3])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "wire:", err)
		os.Exit(1)
	}
}

func printTable() {
	seen := map[reflect.Type]bool{}
	for _, kind := range kinds {
		printType(reflect.TypeOf(kind.object).Elem(), seen)
	}
}

// printType prints a type and those that it reaches, each once.
func printType(of reflect.Type, seen map[reflect.Type]bool) {
	if seen[of] {
		return
	}
	seen[of] = true
	fmt.Printf("\n%s\n", typeName(of))
	for i := range of.NumField() {
		field := of.Field(i)
		if tag := field.Tag.Get("protobuf"); tag != "" {
			number := strings.Split(tag, ",")[1]
			fmt.Printf("  %s %s %s\n", number, fieldName(field), typeWord(field.Type))
		}
	}
	for i := range of.NumField() {
		if of.Field(i).Tag.Get("protobuf") == "" {
			continue
		}
		if found := innermost(of.Field(i).Type); found.Kind() == reflect.Struct && ownEncoding(found) == "" {
			printType(found, seen)
		}
	}
}

// fieldName is a field's name in JSON with a sign that says what becomes of it there
// when it is empty.
func fieldName(field reflect.StructField) string {
	name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
	has := func(option string) bool { return slices.Contains(strings.Split(options, ","), option) }
	kind := field.Type.Kind()
	switch {
	case name == "" && field.Anonymous:
		return "-"
	case kind == reflect.Pointer && has("omitempty"):
		return name + "?"
	case kind == reflect.Pointer:
		return name + "!"
	case has("omitzero") || has("omitempty") && kind != reflect.Struct:
		return name + "~"
	}
	return name
}

// typeWord is a type as the table has it.
func typeWord(of reflect.Type) string {
	switch of.Kind() {
	case reflect.Pointer:
		return typeWord(of.Elem())
	case reflect.Slice:
		if of.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[]" + typeWord(of.Elem())
	case reflect.Map:
		return "{}" + typeWord(of.Elem())
	case reflect.Struct:
		if word := ownEncoding(of); word != "" {
			return word
		}
		return typeName(of)
	case reflect.String, reflect.Bool, reflect.Int32, reflect.Int64:
		return of.Kind().String()
	}
	panic("no word for " + of.String())
}

// ownEncoding is the word for a type whose JSON is not that of its fields.
func ownEncoding(of reflect.Type) string {
	switch of.Name() {
	case "Quantity", "Time", "MicroTime", "IntOrString":
		return of.Name()
	case "RawExtension", "FieldsV1":
		return "Raw"
	}
	return ""
}

// innermost is the type of what a pointer, a list or a map holds.
func innermost(of reflect.Type) reflect.Type {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice || of.Kind() == reflect.Map {
		of = of.Elem()
	}
	return of
}

// typeName is a type's name in OpenAPI without what all of them begin with.
func typeName(of reflect.Type) string {
	path := strings.TrimPrefix(of.PkgPath(), "k8s.io/")
	return strings.ReplaceAll(path, "/", ".") + "." + of.Name()
}

func printObjects(count, seed string) error {
	wanted, err := strconv.Atoi(count)
	if err != nil {
		return err
	}
	number, err := strconv.ParseInt(seed, 10, 64)
	if err != nil {
		return err
	}
	out := json.NewEncoder(os.Stdout)
	random := rand.New(rand.NewSource(number))
	for _, kind := range kinds {
		for range wanted {
			line, err := randomObject(random, kind.version, kind.object)
			if err != nil {
				return fmt.Errorf("%T: %w", kind.object, err)
			}
			if err := out.Encode(line); err != nil {
				return err
			}
		}
	}
	return nil
}

type line struct {
	Kind     string          `json:"kind"`
	Protobuf string          `json:"protobuf"`
	JSON     json.RawMessage `json:"json"`
}

func randomObject(random *rand.Rand, version string, like runtime.Object) (*line, error) {
	of := reflect.TypeOf(like).Elem()
	object := reflect.New(of)
	fill(random, object.Elem(), 0)
	made := object.Interface().(runtime.Object)
	groupVersion, err := schema.ParseGroupVersion(version)
	if err != nil {
		return nil, err
	}
	made.GetObjectKind().SetGroupVersionKind(groupVersion.WithKind(of.Name()))
	var bytes strings.Builder
	if err := protobuf.NewSerializer(nil, nil).Encode(made, &bytes); err != nil {
		return nil, err
	}
	text, err := json.Marshal(made)
	if err != nil {
		return nil, err
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(bytes.String()))
	return &line{Kind: version + " " + of.Name(), Protobuf: encoded, JSON: text}, nil
}
