package main

import (
	"fmt"
	"math"
	"math/rand"
	"reflect"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// How deep objects grow: a pod's template in a cron job has its leaves at ten or so.
const deepest = 14

// fill gives a value of whatever type a random content. Nothing is left out for ever:
// each field is empty, absent and full in some of the objects.
func fill(random *rand.Rand, value reflect.Value, depth int) {
	if value.Type() == reflect.TypeOf(metav1.TypeMeta{}) {
		return
	}
	if special(random, value) {
		return
	}
	switch value.Kind() {
	case reflect.Struct:
		// Some are wholly empty: presence is then all that the bytes say.
		if depth > 1 && random.Intn(12) == 0 {
			return
		}
		for i := range value.NumField() {
			fill(random, value.Field(i), depth+1)
		}
	case reflect.Pointer:
		if depth < deepest && random.Intn(3) > 0 {
			value.Set(reflect.New(value.Type().Elem()))
			fill(random, value.Elem(), depth+1)
		}
	case reflect.Slice:
		fillSlice(random, value, depth)
	case reflect.Map:
		fillMap(random, value, depth)
	case reflect.String:
		value.SetString(text(random))
	case reflect.Bool:
		value.SetBool(random.Intn(2) == 0)
	case reflect.Int32:
		value.SetInt(int64(int32(number(random))))
	case reflect.Int64:
		value.SetInt(number(random))
	default:
		panic(fmt.Sprintf("no filling for %s", value.Type()))
	}
}

// special fills types that encode themselves.
func special(random *rand.Rand, value reflect.Value) bool {
	switch target := value.Addr().Interface().(type) {
	case *metav1.Time:
		// Seconds are all that JSON has.
		if random.Intn(4) > 0 {
			*target = metav1.Unix(seconds(random), 0)
		}
	case *metav1.MicroTime:
		if random.Intn(4) > 0 {
			*target = metav1.NewMicroTime(time.Unix(seconds(random), random.Int63n(1e6)*1e3))
		}
	case *resource.Quantity:
		*target = quantity(random)
	case *intstr.IntOrString:
		*target = intstr.FromInt32(int32(number(random)))
		if random.Intn(2) == 0 {
			*target = intstr.FromString(text(random))
		}
	case *runtime.RawExtension:
		if random.Intn(4) > 0 {
			target.Raw = []byte(fmt.Sprintf(`{"a":[%d,"x",null],"b":{}}`, random.Intn(100)))
		}
	case *metav1.FieldsV1:
		if random.Intn(4) > 0 {
			target.SetRawString(fmt.Sprintf(`{"f:metadata":{"f:n%d":{}}}`, random.Intn(100)))
		}
	default:
		return false
	}
	return true
}

func fillSlice(random *rand.Rand, value reflect.Value, depth int) {
	count := random.Intn(4)
	if depth >= deepest || count == 0 {
		return
	}
	// Bytes are of any value, lists of things stay short: objects nest.
	if value.Type().Elem().Kind() == reflect.Uint8 {
		bytes := make([]byte, random.Intn(40)+1)
		random.Read(bytes)
		value.SetBytes(bytes)
		return
	}
	if depth > 6 {
		count = 1
	}
	value.Set(reflect.MakeSlice(value.Type(), count, count))
	for i := range count {
		fill(random, value.Index(i), depth+1)
	}
}

func fillMap(random *rand.Rand, value reflect.Value, depth int) {
	count := random.Intn(4)
	if depth >= deepest || count == 0 {
		return
	}
	value.Set(reflect.MakeMap(value.Type()))
	for range count {
		key, item := reflect.New(value.Type().Key()).Elem(), reflect.New(value.Type().Elem()).Elem()
		fill(random, key, depth+1)
		fill(random, item, depth+1)
		// An absent list and an empty one are the same bytes, but not the same JSON in a map.
		if item.Kind() == reflect.Slice && item.IsNil() {
			item.Set(reflect.MakeSlice(item.Type(), 0, 0))
		}
		value.SetMapIndex(key, item)
	}
}

var texts = []string{"", "a", "kube-system", "registry.example/app:1", "ünïcode ⚓", "\"quoted\"\n\t\\", "1", "Always"}

func text(random *rand.Rand) string { return texts[random.Intn(len(texts))] }

func number(random *rand.Rand) int64 {
	few := []int64{0, 1, -1, 80, math.MaxInt32, math.MinInt32, math.MaxInt64, math.MinInt64, random.Int63()}
	return few[random.Intn(len(few))]
}

func seconds(random *rand.Rand) int64 {
	few := []int64{0, 1, -1, 1_700_000_000, 4_000_000_000, -2_000_000_000}
	return few[random.Intn(len(few))] + random.Int63n(2)
}

var quantities = []string{"0", "1", "500m", "1500m", "64Mi", "1Gi", "1.5Gi", "100k", "1e3", "123456789n", "-2", "0.1", "9223372036854775807"}

func quantity(random *rand.Rand) resource.Quantity {
	return resource.MustParse(quantities[random.Intn(len(quantities))])
}
