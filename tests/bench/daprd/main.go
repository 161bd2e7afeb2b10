// daprd with one component, a state store in memory: the peer of the benchmark over sockets. Dapr's own program registers either
// some hundred components or none at all; this starts the same runtime with that one.
//
//	daprd RESOURCES-DIRECTORY SOCKET-DIRECTORY
package main

import (
	"context"
	"log"
	"os"

	"github.com/dapr/components-contrib/state"
	inmemory "github.com/dapr/components-contrib/state/in-memory"
	"github.com/dapr/dapr/cmd/daprd/options"
	stateloader "github.com/dapr/dapr/pkg/components/state"
	"github.com/dapr/dapr/pkg/healthz"
	"github.com/dapr/dapr/pkg/metrics"
	"github.com/dapr/dapr/pkg/modes"
	"github.com/dapr/dapr/pkg/runtime"
	"github.com/dapr/dapr/pkg/runtime/registry"
	"github.com/dapr/dapr/pkg/security"
	"github.com/dapr/kit/concurrency"
	"github.com/dapr/kit/logger"
	"github.com/dapr/kit/signals"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: daprd RESOURCES-DIRECTORY SOCKET-DIRECTORY")
	}
	opts, err := options.New([]string{
		"--app-id", "bench", "--resources-path", os.Args[1], "--unix-domain-socket", os.Args[2],
		"--enable-metrics=false", "--log-level", "warn",
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := logger.ApplyOptionsToLoggers(&opts.Logger); err != nil {
		log.Fatal(err)
	}
	stateloader.DefaultRegistry.Logger = logger.NewLogger("bench")
	stateloader.DefaultRegistry.RegisterComponent(func(log logger.Logger) state.Store {
		return inmemory.NewInMemoryStateStore(log)
	}, "in-memory")

	ctx := signals.Context()
	health := healthz.New()
	provider, err := security.New(ctx, security.Options{
		AppID: opts.AppID, Mode: modes.StandaloneMode, Healthz: health,
		ControlPlaneTrustDomain: opts.ControlPlaneTrustDomain, ControlPlaneNamespace: opts.ControlPlaneNamespace,
	})
	if err != nil {
		log.Fatal(err)
	}
	serve := func(ctx context.Context) error {
		handler, err := provider.Handler(ctx)
		if err != nil {
			return err
		}
		daprd, err := runtime.FromConfig(ctx, &runtime.Config{
			AppID:                 opts.AppID,
			Mode:                  opts.Mode,
			AllowedOrigins:        opts.AllowedOrigins,
			ResourcesPath:         opts.ResourcesPath,
			DaprHTTPPort:          opts.DaprHTTPPort,
			DaprAPIGRPCPort:       opts.DaprAPIGRPCPort,
			DaprInternalGRPCPort:  opts.DaprInternalGRPCPort,
			ProfilePort:           opts.ProfilePort,
			MaxRequestSize:        opts.MaxRequestSize,
			ReadBufferSize:        opts.ReadBufferSize,
			UnixDomainSocket:      opts.UnixDomainSocket,
			AppProtocol:           opts.AppProtocol,
			AppHealthProbeTimeout: opts.AppHealthProbeTimeout,
			Metrics:               metrics.Options{Log: logger.NewLogger("metrics"), Healthz: health},
			Registry:              registry.NewOptions().WithStateStores(stateloader.DefaultRegistry),
			SchedulerStreams:      opts.SchedulerJobStreams,
			Security:              handler,
			Healthz:               health,
		})
		if err != nil {
			return err
		}
		return daprd.Run(ctx)
	}
	if err := concurrency.NewRunnerManager(provider.Run, serve).Run(ctx); err != nil {
		log.Fatal(err)
	}
}
