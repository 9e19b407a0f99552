// Validate reads objects of Kubernetes (YAML, on standard input) and treats each as the API server does at a creation: it
// decodes it strictly, sets the defaults, prepares and validates it by the strategy of its kind, and holds pods and their
// templates against Pod Security "restricted". It writes one line of JSON for each object:
//
//	{"kind": "StatefulSet", "name": "tokentrace", "known": true, "problems": ["..."]}
//
// known is false for a kind that comes with a custom resource definition, which is not looked at.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	"k8s.io/kubernetes/pkg/apis/core"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/namespace"
	"k8s.io/kubernetes/pkg/registry/core/secret"
	"k8s.io/kubernetes/pkg/registry/core/service"
	"k8s.io/kubernetes/pkg/registry/core/serviceaccount"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	security "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

// The rules by which the API server creates objects of a kind.
var strategies = map[string]rest.RESTCreateStrategy{
	"ConfigMap":               configmap.Strategy,
	"Deployment":              deployment.Strategy,
	"HorizontalPodAutoscaler": horizontalpodautoscaler.Strategy,
	"Namespace":               namespace.Strategy,
	"NetworkPolicy":           networkpolicy.Strategy,
	"PodDisruptionBudget":     poddisruptionbudget.Strategy,
	"Secret":                  secret.Strategy,
	"Service":                 service.Strategy,
	"ServiceAccount":          serviceaccount.Strategy,
	"StatefulSet":             statefulset.Strategy,
}

type finding struct {
	Kind     string   `json:"kind"`
	Name     string   `json:"name"`
	Known    bool     `json:"known"`
	Problems []string `json:"problems"`
}

// warnings collects what the API server would tell a client beside taking the object.
type warnings struct{ texts []string }

func (w *warnings) AddWarning(_, text string) { w.texts = append(w.texts, "warning: "+text) }

type validator struct {
	decoder  runtime.Decoder
	security policy.Evaluator
}

func (v validator) check(document []byte) finding {
	var named struct {
		metav1.TypeMeta   `json:",inline"`
		metav1.ObjectMeta `json:"metadata"`
	}
	found := finding{Problems: []string{}}
	if err := yaml.Unmarshal(document, &named); err != nil {
		return finding{Problems: []string{err.Error()}}
	}
	found.Kind, found.Name = named.Kind, named.Name
	object, kind, err := v.decoder.Decode(document, nil, nil)
	if runtime.IsNotRegisteredError(err) {
		return found
	}
	found.Known = true
	if err != nil {
		found.Problems = append(found.Problems, err.Error())
		return found
	}
	legacyscheme.Scheme.Default(object)
	found.Problems = append(found.Problems, v.insecure(object)...)
	found.Problems = append(found.Problems, invalid(object, *kind)...)
	return found
}

// insecure returns what Pod Security "restricted" does not allow.
func (v validator) insecure(object runtime.Object) (problems []string) {
	var pod *corev1.PodTemplateSpec
	switch typed := object.(type) {
	case *appsv1.Deployment:
		pod = &typed.Spec.Template
	case *appsv1.StatefulSet:
		pod = &typed.Spec.Template
	default:
		return nil
	}
	level := security.LevelVersion{Level: security.LevelRestricted, Version: security.LatestVersion()}
	for _, result := range v.security.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
		if !result.Allowed {
			problems = append(problems, fmt.Sprintf("restricted: %s: %s", result.ForbiddenReason, result.ForbiddenDetail))
		}
	}
	return problems
}

// invalid returns why the API server would not create the object, and its warnings.
func invalid(object runtime.Object, kind schema.GroupVersionKind) []string {
	strategy, ok := strategies[kind.Kind]
	if !ok {
		return []string{"the validator has no strategy for this kind"}
	}
	internal, err := legacyscheme.Scheme.ConvertToVersion(object, runtime.InternalGroupVersioner)
	if err != nil {
		return []string{err.Error()}
	}
	accessor, err := meta.Accessor(internal)
	if err != nil {
		return []string{err.Error()}
	}
	rest.FillObjectMetaSystemFields(accessor)
	// The registry of Services keeps the old field and the new one alike, before their strategy.
	if typed, ok := internal.(*core.Service); ok && typed.Spec.ClusterIP != "" && len(typed.Spec.ClusterIPs) == 0 {
		typed.Spec.ClusterIPs = []string{typed.Spec.ClusterIP}
	}
	// A manifest without a namespace takes that of the request.
	space := accessor.GetNamespace()
	if space == "" && strategy.NamespaceScoped() {
		space = metav1.NamespaceDefault
	}
	told := &warnings{}
	ctx := request.WithNamespace(context.Background(), space)
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{
		IsResourceRequest: true, Verb: "create", APIGroup: kind.Group, APIVersion: kind.Version, Namespace: space,
	})
	ctx = warning.WithWarningRecorder(ctx, told)
	if err := rest.BeforeCreate(strategy, ctx, internal); err != nil {
		return append(told.texts, err.Error())
	}
	return told.texts
}

func run() error {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		return err
	}
	codecs := serializer.NewCodecFactory(legacyscheme.Scheme, serializer.EnableStrict)
	checks := validator{decoder: codecs.UniversalDeserializer(), security: evaluator}
	reader := yaml.NewYAMLReader(bufio.NewReader(os.Stdin))
	output := json.NewEncoder(os.Stdout)
	for {
		document, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := output.Encode(checks.check(document)); err != nil {
			return err
		}
	}
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
